"""Verification as SCP (PS3.4 Annex A): C-ECHO gets an answer from every peer that may ask."""

from __future__ import annotations

from router.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from router.model import Peer, Status

VERIFICATION_CONTEXT = (VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN)
"""The pair to propose for a C-ECHO of ours."""


def answer(peer: Peer) -> tuple[int, str]:
    """Status and comment of the C-ECHO-RSP."""
    if not peer.echo:
        return Status.NOT_AUTHORIZED, "this peer may not verify"
    return Status.SUCCESS, ""
