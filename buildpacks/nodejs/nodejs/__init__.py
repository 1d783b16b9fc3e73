"""The Node.js buildpack; `nodejs.buildpack` is its spine."""
