"""``python -m router.app.cli`` is ``dicom-router``."""

from router.app.cli import main

main()
