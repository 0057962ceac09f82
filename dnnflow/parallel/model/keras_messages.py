"""Find in what Keras and TensorFlow say of an error the sentence that says what is wrong."""

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CHAINED = re.compile(r"Exception encountered: ")
"""Keras puts the error that was first behind those that it led to."""
_WHERE = re.compile(
    r"^(Exception encountered when calling\b|in user code:|File \"|Detected at node|Traceback\b|\[\[|"
    r"Original stack trace|config=|Call arguments received)"
)
_NODE = re.compile(r"^(Graph execution error|.* node .* defined at)")
_MOST = 500


def keras_message(error: BaseException) -> str:
    """Return the sentence of an error that says what is wrong: of a chain of errors that of the first cause.

    Examples
    --------
    >>> text = "<class 'LSTM'> could not be read.\\n\\nconfig={}.\\n\\nException encountered: no time_major"
    >>> keras_message(ValueError(text))
    'no time_major'
    """
    text = _COLOUR.sub("", str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error))
    text = _CHAINED.split(text)[-1].partition("Arguments received by")[0]
    traced = "in user code:" in text or "Graph execution error" in text or "{{" in text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not _WHERE.match(line) and not _NODE.match(line)]
    if not told:
        return type(error).__name__
    if traced:  # where, then what
        raised = [line for line in told if re.match(r"^\w*(Error|Exception)\b.*: ", line)]
        return (raised or told)[-1][:_MOST]
    return told[0][:_MOST]
