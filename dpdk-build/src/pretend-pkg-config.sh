#!/bin/sh
# Stands for pkg-config in the tests: does what the test says.
eval "$PRETEND"
