"""The small model that ships with Turnwise: corpus, training script, weights, card."""
