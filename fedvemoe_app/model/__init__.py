"""The language model: a frozen base with stacked LoRA experts on it."""

import logging


def _is_news(record: logging.LogRecord) -> bool:
    """Drop one warning of bitsandbytes, which PEFT imports wherever it is installed.

    It says that a faster 4-bit kernel for CPUs could be downloaded, on machines that quantise
    nothing as well, before every command.
    """
    return not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_news)
