# SPDX-License-Identifier: Apache-2.0
"""``python -m fastdet`` is the command ``fastdet``."""

import sys

from fastdet.cli import main

sys.exit(main())
