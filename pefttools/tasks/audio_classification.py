"""Classification of sounds: spoken commands, speakers, languages, noises."""

from __future__ import annotations

from collections.abc import Sequence

from pefttools.data import Table
from pefttools.data.labels import label_text
from pefttools.tasks.audio_head import AudioHeadConfig, AudioHeadTask
from pefttools.tasks.class_config import ClassOptions
from pefttools.tasks.class_labels import check_label
from pefttools.tasks.one_label import OneLabelTask
from pefttools.tasks.task import Example, Role


class AudioClassificationConfig(AudioHeadConfig, ClassOptions):
    """Options of audio classification."""


class AudioClassification(OneLabelTask[AudioClassificationConfig], AudioHeadTask[AudioClassificationConfig]):
    """One label per sound; columns `audio` and `label`."""

    name = "audio-classification"
    summary = "one label for a sound, such as a spoken command"
    config = AudioClassificationConfig
    roles = {"audio": Role("audio"), "label": Role("label", is_input=False)}  # noqa: RUF012

    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        known = {label_text(label) or label for label in labels}
        for index, row in enumerate(table.rows):
            self.check_audio(table, index, whole=not labelled)  # of a prediction, other rows are to go on
            if labelled:
                check_label(table, index, row["label"], known)

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        return {"labels": 0}
