"""The same misfortunes for everybody: what other DICOM receivers do where the router's promises are tested."""
