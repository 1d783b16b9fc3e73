"""The use case behind `packhorse sbom`: `contents` is what an image is made of, as one bill or as files."""
