"""The miniatures, one module each, with the same functions: `build`, `processor`, `see`, `start`, `learned`, `say`."""

from benchmarks.tiny.texts import VOCABULARY

LANGUAGE = {
    "hidden_size": 192,
    "intermediate_size": 448,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
}
"""The sizes of the language models that are built as Llama is."""
