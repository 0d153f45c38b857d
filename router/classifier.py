"""The ONNX classifier: a recent conversation in, its score and labels out.

Owns the model file and what it promises of itself. Knows no policy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from memory.conversation import Message
from router.errors import ModelFileError
from router.features import turn_text_of
from router.labels import DOMAINS, TASKS, Labels, Prediction
from router.language import Languages
from router.network import FORMAT, N_OUTPUTS, SCALARS
from router.pii import has_pii
from router.tokens import Vocabulary, words_of

MODEL_FOLDER = Path(__file__).with_name("model")
MODEL_FILE = "router.onnx"

# From here on a label is said: an unsafe turn that is missed costs less than a safe one refused.
UNSAFE_AT = 0.5
NEEDS_CONTEXT_AT = 0.5

_N_SCALARS = len(SCALARS)
_N_TASKS = len(TASKS)
_OUTPUTS = ["outputs"]


class OnnxClassifier:
    """Tells what a turn needs; one for the process, safe to call from any thread.

    `version` is what the model file calls itself, with a hash of the file.
    """

    def __init__(
        self, session: Any, vocabulary: Vocabulary, languages: Languages, version: str
    ) -> None:
        self.version = version
        self._run = session.run
        self._vocabulary = vocabulary
        self._language_of = languages.language_of

    @classmethod
    def load(cls, folder: Path = MODEL_FOLDER) -> OnnxClassifier:
        """Return the classifier of a model folder.

        Raises:
            ModelFileError: a file is missing, corrupt, or made for another version of this code.
        """
        try:
            model = (folder / MODEL_FILE).read_bytes()
            vocabulary, languages = Vocabulary.load(folder), Languages.load(folder)
            session = _session_of(model)
            about = session.get_modelmeta().custom_metadata_map
        # onnxruntime raises its own family of errors, which share no base but Exception.
        except Exception as error:
            raise ModelFileError(f"The model in {folder} cannot be loaded: {error}") from error
        if about.get("format") != FORMAT or about.get("vocabulary") != str(len(vocabulary)):
            raise ModelFileError(f"The model in {folder} is of another version ({about}).")
        digest = hashlib.sha256(model).hexdigest()[:8]
        classifier = cls(session, vocabulary, languages, f"{about['version']}+{digest}")
        classifier.predict([Message("user", "hello")])
        return classifier

    def predict(self, messages: Sequence[Message]) -> Prediction:
        """Return the prediction for the newest turn of a conversation, newest message last.

        A turn that means nothing alone is scored as the question before it where that is harder,
        so that `yes` after a hard question keeps its difficulty.
        """
        read = turn_text_of(messages)
        words = words_of(read.current)
        outputs = self._outputs(words, read.facts)
        score, difficulty, unsafe, needs_context = outputs[:_N_SCALARS]
        task, domain = _labels_of(outputs)
        language = self._language_of(read.current, words)
        is_carried = False
        leans = needs_context >= NEEDS_CONTEXT_AT and read.earlier
        for text in read.earlier if leans else ():
            before = turn_text_of([Message("user", text)])
            earlier_words = words_of(before.current)
            earlier = self._outputs(earlier_words, before.facts)
            if earlier[0] > score:
                score, difficulty = earlier[:2]
                task, domain = _labels_of(earlier)
                is_carried = True
            if language == "und":
                language = self._language_of(text, earlier_words)
            if earlier[3] < NEEDS_CONTEXT_AT:
                break  # this one stood by itself: the chain of short replies began here
        labels = Labels(
            language=language,
            task=task,
            domain=domain,
            difficulty=difficulty,
            pii=has_pii(message.text for message in messages),
            unsafe=unsafe >= UNSAFE_AT,
        )
        return Prediction(score, labels, needs_context, 1 - abs(2 * score - 1), is_carried)

    def _outputs(self, words: list[str], facts: Sequence[float]) -> list[float]:
        feeds = {"tokens": self._vocabulary.ids_of(words), "facts": np.array([facts], np.float32)}
        outputs: list[float] = self._run(_OUTPUTS, feeds)[0][0].tolist()
        return outputs


def _session_of(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # a broken file is an exception here, not a line on stderr
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    if session.get_outputs()[0].shape != [1, N_OUTPUTS]:
        raise ValueError(f"the output is {session.get_outputs()[0].shape}, not [1, {N_OUTPUTS}]")
    return session


def _labels_of(outputs: list[float]) -> tuple[str, str]:
    tasks = outputs[_N_SCALARS : _N_SCALARS + _N_TASKS]
    domains = outputs[_N_SCALARS + _N_TASKS :]
    return TASKS[tasks.index(max(tasks))], DOMAINS[domains.index(max(domains))]
