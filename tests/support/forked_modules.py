"""What the process that forks others imports first (see tests/support/forked.py)."""

from tests.support.forked import import_all

import_all()
