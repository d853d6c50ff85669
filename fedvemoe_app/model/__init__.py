"""The language model: a frozen base with stacked LoRA experts on it."""
