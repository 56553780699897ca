"""Other libraries' models and classes, from theirs to ours and back."""
