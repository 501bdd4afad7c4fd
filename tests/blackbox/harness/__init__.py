"""A box, its neighbours, and what is expected of it. Nothing here uses the project's own packet code."""

import logging

# Scapy warns of interfaces it will never be asked to use.
logging.getLogger("scapy").setLevel(logging.ERROR)
