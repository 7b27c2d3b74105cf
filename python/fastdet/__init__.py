# SPDX-License-Identifier: Apache-2.0
"""fastdet: exact, fast operators for real-time object detection, and the detectors that prove them."""

__version__ = "0.1.0"
