"""The Procfile buildpack. The SDK's starter imports this module in bin/build."""

from procfile import build

from packhorse import sdk

sdk.main(detect=lambda _: sdk.Pass(), build=build)  # bin/detect has decided; it is a shell script
