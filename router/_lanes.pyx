# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What a lane asks for with every object, natively: whose turn it is, and whether there is memory for it.

``delivery.waiting`` and ``delivery.memory`` say what each thing is for.
"""

from collections import deque

from router.model import Priority

cdef int PRIORITIES = len(Priority)


cdef class Waiting:
    """What waits in a lane, in the order in which it will leave."""

    # A queue for each priority.
    cdef tuple _late
    cdef tuple _fresh
    cdef bint _late_next
    cdef readonly Py_ssize_t late
    cdef readonly Py_ssize_t fresh

    def __init__(self):
        self._late = tuple([deque() for _ in range(PRIORITIES)])
        self._fresh = tuple([deque() for _ in range(PRIORITIES)])
        self._late_next = True

    def __len__(self):
        return self.late + self.fresh

    def __iter__(self):
        """By priority, what is late first; roughly as they will leave."""
        for late, fresh in zip(self._late, self._fresh):
            yield from late
            yield from fresh

    cdef object _queue_of(self, delivery, Py_ssize_t change):
        """Where it belongs; ``change``: how many more there will be."""
        cdef bint is_late = delivery.late
        cdef Py_ssize_t priority = delivery.priority
        if is_late:
            self.late += change
        else:
            self.fresh += change
        if not 0 <= priority < PRIORITIES:
            raise IndexError(priority)
        return (self._late if is_late else self._fresh)[priority]

    def put(self, delivery):
        """Behind its like."""
        self._queue_of(delivery, 1).append(delivery)

    def put_back(self, delivery):
        """Before its like."""
        self._queue_of(delivery, 1).appendleft(delivery)

    def next(self, not_yet):
        """Whose turn it is; it stays until ``take``. None: nothing waits, or what may leave next is among ``not_yet``
        (ids)."""
        cdef Py_ssize_t priority
        cdef int turn
        if not self.late + self.fresh:
            return None
        for priority in range(PRIORITIES):
            late, fresh = self._late[priority], self._fresh[priority]
            if not late and not fresh:
                continue
            for turn in range(2):
                queue = late if (turn == 0) == self._late_next else fresh
                if queue:
                    first = queue[0]
                    if not not_yet or first.id not in not_yet:
                        return first
            return None
        return None

    def take(self, delivery):
        """What ``next`` gave leaves."""
        self._queue_of(delivery, -1).popleft()
        self._late_next = not delivery.late

    def remove(self, delivery):
        """From wherever it stands; False: it is not here."""
        queue = self._queue_of(delivery, 0)
        if delivery not in queue:
            return False
        self._queue_of(delivery, -1)
        queue.remove(delivery)
        return True

    def age(self):
        """All that waits is late from now on, behind what was before."""
        for late, fresh in zip(self._late, self._fresh):
            for delivery in fresh:
                delivery.late = True
            late.extend(fresh)
            fresh.clear()
        self.late += self.fresh
        self.fresh = 0


cdef class Budget:
    """A count with a limit; whoever does not get a place reads the spool."""

    cdef public long long limit
    cdef readonly long long used
    cdef list _shares

    def __init__(self, long long limit):
        self.limit = limit
        self._shares = []

    def take(self, long long size):
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give_back(self, long long size):
        self.used -= size

    def share(self, let_go):
        """One more among which the limit is divided.

        Args:
            let_go: Gives back (``Share.give_back``) something of what the share keeps; False: there is nothing that
            could be spared.
        """
        cdef Share share = Share.__new__(Share)
        share._budget = self
        share._let_go = let_go
        self._shares.append(share)
        return share

    cdef long long _part(self):
        return self.limit // <long long>len(self._shares)

    cdef bint _make_room(self, long long size) except -1:
        """At the cost of those that keep more than their part, the most first."""
        cdef Share share
        cdef long long part = self._part()
        while self.used + size > self.limit:
            for share in sorted(self._shares, key=_used, reverse=True):
                if share.used <= part:
                    return False
                if share._let_go():
                    break
            else:
                return False
        return True


cdef class Share:
    """What one lane keeps."""

    cdef Budget _budget
    cdef object _let_go
    cdef readonly long long used

    @property
    def part(self):
        """Bytes that each share has for itself."""
        return self._budget._part()

    def take(self, long long size):
        """For what has just come: a place in our own part, or one that is free."""
        return self._take(size)

    cdef bint _take(self, long long size) except -1:
        cdef Budget budget = self._budget
        if budget.used + size > budget.limit and (
            self.used + size > budget._part() or not budget._make_room(size)
        ):
            return False
        self.used += size
        budget.used += size
        return True

    def take_ahead(self, long long size):
        """For what is read from the disk before it is sent: beyond our part only while half of all is free, so that
        nothing is read and let go in turns."""
        cdef Budget budget = self._budget
        if self.used + size > budget._part() and budget.used + size > budget.limit // 2:
            return False
        return self._take(size)

    def give_back(self, long long size):
        self.used -= size
        self._budget.used -= size


def _used(Share share):
    return share.used
