"""The use case behind `packhorse rebase`: `one` puts an image on its run image, `many` several at once."""
