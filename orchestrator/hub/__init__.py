"""Access to the Hugging Face Hub: resolve a revision, fetch its files, check every byte."""
