"""The errors a user can cause. Each message names the key or file and the fix."""

from __future__ import annotations


class FedVemoeError(Exception):
    """Base of every error that is meant to be read by the user."""


class SettingError(FedVemoeError):
    """A setting is unknown, of the wrong type, out of range or at odds with another."""


class DataError(FedVemoeError):
    """A task bank, map file or keyword file cannot be used."""


class BaseModelError(FedVemoeError):
    """A base model cannot be loaded, built, or is not the one the run was started with."""


class RunError(FedVemoeError):
    """A federated run cannot go on."""
