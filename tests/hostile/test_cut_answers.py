"""A destination that ends an association at each byte of what it says: stored only if its answer was whole."""

from __future__ import annotations

import asyncio

import pytest

from router.errors import AssociationAborted
from tests.net.doubles import RawPeer, abort_pdu, associate_ac, p_data, scripted_scp
from tests.services.test_storage_scu import Memory, instance, response, scu_to

ENDINGS = {"closed": b"", "aborted": abort_pdu(0, 0), "garbled": b"\xff" * 12}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_an_answer_cut_at_any_byte_is_no_answer(ending: str) -> None:
    answer = p_data(1, 3, response())
    before = asyncio.all_tasks()
    # Further on, the ending would be taken for the rest of the answer, as it must.
    for cut in range(len(answer) - len(ENDINGS[ending])):

        async def cut_short(peer: RawPeer, end: int = cut) -> None:
            peer.send(associate_ac(await peer.pdu()))
            await peer.command()
            await peer.pdu()
            peer.send(answer[:end] + ENDINGS[ending])

        async with scripted_scp(cut_short) as port, scu_to(port, response_timeout=5) as scu:
            with pytest.raises(AssociationAborted):
                await scu.store(instance(), Memory(b"12"))
            assert not scu.alive
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("ending", ENDINGS)
async def test_an_acceptance_cut_at_any_byte_is_none(ending: str) -> None:
    sizes: list[int] = []

    async def whole(peer: RawPeer) -> None:
        sizes.append(len(associate_ac(await peer.pdu())))

    async with scripted_scp(whole) as port:
        with pytest.raises(AssociationAborted):
            async with scu_to(port):
                pass
    for cut in range(sizes[0]):

        async def cut_short(peer: RawPeer, end: int = cut) -> None:
            peer.send(associate_ac(await peer.pdu())[:end] + ENDINGS[ending])

        async with scripted_scp(cut_short) as port:
            with pytest.raises(AssociationAborted):
                async with scu_to(port) as scu:
                    await scu.store(instance(), Memory(b"12"))
