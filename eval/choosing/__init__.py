"""Which method to begin with: what fits a card, in the order of what kept comparisons say."""
