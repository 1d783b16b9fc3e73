"""`packhorse sbom`: `contents` lists what an image has, `parser` reads SBOM files, `base` dpkg's records."""
