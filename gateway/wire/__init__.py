"""Outside shapes to our nouns and back."""
