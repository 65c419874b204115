"""dicom-router: stores what arrives, decides by rules where it goes, delivers it to every one of those places."""

__version__ = "0.1.0"

# PS3.7 D.3.3.2: what we call ourselves on the wire. The UID is from the UUID arc (PS3.5 B.2), fixed for this product.
IMPLEMENTATION_CLASS_UID = "2.25.298034766187126531987209456281530011427"
IMPLEMENTATION_VERSION_NAME = "DICOM_ROUTER_01"
