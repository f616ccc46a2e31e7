"""What the tests of this folder share."""

from __future__ import annotations

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "apples", "pears", "plums"]
PASSAGES = [
    " ".join(WORDS[(number * 3 + place) % len(WORDS)] for place in range(3 + number % 4)) for number in range(9)
]
