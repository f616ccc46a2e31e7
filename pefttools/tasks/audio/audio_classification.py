"""Classification of sounds: spoken commands, speakers, languages, noises."""

from __future__ import annotations

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.tasks.audio.audio_head import AudioHeadConfig, AudioHeadTask
from pefttools.tasks.labels.class_config import ClassOptions
from pefttools.tasks.labels.one_label import OneLabelTask
from pefttools.tasks.task import Role


class AudioClassificationConfig(AudioHeadConfig, ClassOptions):
    """Options of audio classification."""


class AudioClassification(OneLabelTask[AudioClassificationConfig], AudioHeadTask[AudioClassificationConfig]):
    """One label per sound; columns `audio` and `label`."""

    name = "audio-classification"
    summary = "one label for a sound, such as a spoken command"
    config = AudioClassificationConfig
    roles = {"audio": Role("audio"), "label": Role("label", is_input=False)}  # noqa: RUF012

    def check_input(self, table: Table, index: int, row: Row, *, labelled: bool) -> None:
        self.check_audio(table, index, row, whole=not labelled)  # in prediction, the other rows must go on
