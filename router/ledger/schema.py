"""The tables, as numbered steps. SQLite now; three macros carry what another engine spells differently."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from router.errors import LedgerTooNew

MACROS = {"{pk}": "integer primary key", "{ts}": "real", "{big}": "integer", "{end}": str(1 << 62)}

STEPS = (
    """
create table instance(id {pk}, study text not null, series text not null, sop text not null, sop_class text not null,
  ts text not null, calling text not null, called text not null, peer text not null, listener text not null,
  address text not null, patient_id text not null, accession text not null, modality text not null, size {big} not null,
  checksum blob not null, segment {big} not null, epoch {big} not null, at {big} not null, length {big} not null,
  received {ts} not null, rule_version text not null, rules text not null, verdict text not null, priority integer not null,
  move_aet text, move_id integer, supersedes {big}, settled {ts});
create index instance_sop on instance(sop);
create index instance_study on instance(study);
create index instance_accession on instance(accession) where accession <> '';
create index instance_patient on instance(patient_id) where patient_id <> '';
create index instance_segment on instance(segment);
create index instance_settled on instance(settled) where settled is not null;
create index instance_held on instance(id) where verdict = 'hold';
create table delivery(id {pk}, instance_id {big} not null references instance(id) on delete cascade, dest text not null,
  state text not null check(state in ('ready','leased','done','dead','held')), priority integer not null,
  attempts integer not null default 0, first_attempt {ts}, not_before {ts} not null default 0, owner text,
  fence {big} not null default 0, lease_until {ts}, last_error text, last_status integer, after {big}, updated {ts} not null,
  unique(instance_id, dest));
create index delivery_ready on delivery(dest, priority, not_before, id) where state = 'ready';
create index delivery_open on delivery(dest, instance_id) where state in ('ready','leased');
create index delivery_leased on delivery(lease_until) where state = 'leased';
create index delivery_dead on delivery(dest, id) where state = 'dead';
create table event(id {pk}, at {ts} not null, instance_id {big}, dest text, what text not null, detail text not null);
create index event_instance on event(instance_id);
create table history(id {pk}, sop text not null, study text not null, accession text not null, received {ts} not null,
  settled {ts} not null, delivered text not null);
create index history_sop on history(sop);
create index history_accession on history(accession) where accession <> '';
create table setting(name text primary key, value text not null);
""",
    """
create table log_position(epoch {big} not null, at {big} not null);
insert into log_position select coalesce(max(epoch), 0), {end} from instance;
""",
    """
alter table log_position add column log {big} not null default 0;
create unique index log_position_log on log_position(log);
create table counter(name text primary key, number {big} not null, bytes {big} not null);
""",
    """
create table audit(id integer primary key autoincrement, at {ts} not null, what text not null, facts text not null);
""",
    """
create index history_study on history(study);
create index history_settled on history(settled);
create index event_at on event(at);
""",
)


@contextmanager
def immediate(connection: apsw.Connection) -> Iterator[None]:
    """A transaction that writes from its beginning: one that reads first could not wait for another process."""
    connection.execute("begin immediate")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise
    connection.execute("commit")


def migrate(connection: apsw.Connection) -> bool:
    """Bring the tables up to date in one transaction; True if the ledger was empty.

    Raises LedgerTooNew for a ledger of a newer version of the router.
    """
    version = 0
    with immediate(connection):
        connection.execute("create table if not exists schema_version(version integer not null)")
        row = connection.execute("select version from schema_version").fetchone()
        version = row[0] if row else 0
        if version > len(STEPS):
            raise LedgerTooNew(
                f"the ledger has format {version}, this version of the router knows {len(STEPS)}; run the newer version"
            )
        for step in STEPS[version:]:
            for macro, text in MACROS.items():
                step = step.replace(macro, text)
            connection.execute(step)
        if version < len(STEPS):
            connection.execute("delete from schema_version")
            connection.execute("insert into schema_version values(?)", (len(STEPS),))
    return version == 0
