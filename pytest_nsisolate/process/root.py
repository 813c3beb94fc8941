# SPDX-License-Identifier: MIT
"""A test's own files: what the launching process works out, and what PID 1 carries out.

Fact: how the host's root is taken apart depends on what is mounted, and on which entries ``/`` has.
What we do: that is kept until something is mounted or unmounted, or a directory that is taken apart
has another entry. A launch with ``root="overlay"`` looks at two or three directories.

Who owns what inside: a directory of the skeleton, and the topmost one of each overlay, has the
owner and mode of the host's where that id exists inside. Otherwise the child owns it.
``user="same"`` must not gain by that: there the owner may do what this process may do.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from stat import S_IMODE
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel import covered, open_directories, overlays, private_files, syscalls
from pytest_nsisolate.kernel.libc import step_error
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.kernel.survey import is_in, mark_of, read_mounts, status_of, take_apart
from pytest_nsisolate.kernel.syscalls import MS_NODEV
from pytest_nsisolate.process import lending
from pytest_nsisolate.process.given_files import PrivateFilesOnly, Wishes, read_content
from pytest_nsisolate.process.lending import Attachment, Loan
from pytest_nsisolate.process.ownership_layer import Ids, OwnershipLayer, mode_for_others
from pytest_nsisolate.process.passage import Passage

if TYPE_CHECKING:
    from pytest_nsisolate.kernel.mounts import MountPlan
    from pytest_nsisolate.process.image import Image
    from pytest_nsisolate.process.launcher import Launcher
    from pytest_nsisolate.process.path_root import Tree
    from pytest_nsisolate.process.plan import InUse
    from pytest_nsisolate.request.model import IsolationRequest

#: What is bound into every root: it is the test's own already.
_OWN: Final = ("/proc", "/sys", "/dev")

#: As tmpfs(5) has it without a size.
_SIZE: Final = "50%"

#: Plans that are kept: more are of contents that are made anew for each test.
_MOST_PLANS: Final = 64


@dataclass(frozen=True, slots=True)
class Written:
    """How to look at what a test has written to its overlays.

    :param tmpfs: a directory descriptor of the tmpfs that holds it.
    :param host: one of the files below, read-only: of the host's root, or of the folder or the
        image that is the test's; None: the paths of this process are the host's.
    :param places: see :class:`~pytest_nsisolate.kernel.overlays.OverlayRoot`.
    :param one_id: one user and one group of the host's exist in the test's world, so that an owner
        tells nothing unless it is a subordinate id.
    :param whole: one overlay is the whole root, and nothing of it is the host's.
    """

    tmpfs: int
    host: int | None
    places: tuple[str, ...]
    one_id: bool
    whole: bool = False


#: What this process has of its own root, if there is one; it is of every process below, too.
_here: list[Written] = []


def written_here() -> Written | None:
    """In a test with ``root="overlay"``: what it has written."""
    return _here[-1] if _here else None


class OverlaidRoot:
    """What one child does for an overlay of the host's files, of a folder, or of an image.

    :param loans: trees that are made once a run: the ownership layer, and an image, which is last.
    :param files: what is bound over paths that no overlay has.
    :param looks: the child is to see the files as they were.
    :param folder: one that is the root in place of the host's.
    :param whole: one or the other is: see :class:`Written`.
    :raises StepError: when no descriptor is left.
    """

    def __init__(
        self,
        plan: overlays.OverlayRoot,
        loans: tuple[Loan, ...],
        files: private_files.PrivateFiles | None,
        *,
        one_id: bool,
        looks: bool,
        folder: str | None = None,
        whole: bool = False,
    ) -> None:
        self._plan = plan
        self._files = files
        self._one_id = one_id
        self._looks = looks
        self._loans = loans
        self._folder = folder
        self._whole = whole
        try:
            self._passage = Passage()
        except StepError:
            self._put_back()
            raise

    @property
    def mounts(self) -> object:
        """The overlays, and what is bound besides."""
        return self._plan if self._files is None else self._files

    # In the child ---------------------------------------------------------------------------------

    def enter(self) -> None:
        """In the child; it stands in ``/`` then.

        :raises StepError: naming the call and the path.
        """
        if self._files is not None:
            self._files.apply()
        host = _as_it_was("/") if self._looks and not self._whole else None
        directories: list[tuple[int, str]] = []
        self._plan.enter(lambda: directories.extend(self._settle(host)))
        open_directories.leave(directories)

    def _settle(self, host: int | None) -> list[tuple[int, str]]:
        try:
            tmpfs = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            given = [loan.attachment for loan in self._loans]
            if self._folder is not None:
                given.append(Attachment(lending.clone(self._folder), overlays.BASE))
            clones = [one.make() for one in given]
            self._passage.send(tmpfs, *clones)
            for clone in clones:
                os.close(clone)
        except OSError as error:
            raise step_error("hand over the root", "mount", error) from error
        if self._looks and self._whole:
            host = _as_it_was(overlays.BASE)
        if host is None:
            os.close(tmpfs)
        else:
            _here.append(Written(tmpfs, host, self._plan.places, self._one_id, self._whole))
        return [entry for entry in open_directories.listed() if entry[0] not in (tmpfs, host)]

    # In the launching process ---------------------------------------------------------------------

    def launched(self) -> None:
        """There is a child, which has everything."""
        self._passage.passed_on()
        for number, loan in enumerate(self._loans, 1):
            loan.begin(partial(self._get_back, number))

    def close(self) -> None:
        """There will be no child."""
        self._put_back()
        self._passage.cancel()

    def written(self) -> Written | None:
        """What the test has written, until :meth:`release`; None if it never came so far."""
        found = self._sent()
        if not found:
            return None
        host = found[-1] if self._whole else None
        return Written(found[0], host, self._plan.places, self._one_id, self._whole)

    def release(self) -> None:
        """The child has been reaped."""
        for loan in self._loans:
            loan.end()
        self._passage.close()

    def descriptors(self) -> tuple[int, ...]:
        """What is the launching process's alone."""
        return self._passage.descriptors()

    def _put_back(self) -> None:
        for loan in self._loans:
            loan.cancel()

    def _get_back(self, number: int) -> int | None:
        found = self._sent()
        return os.dup(found[number]) if found else None

    def _sent(self) -> list[int]:
        """The tmpfs and the clone of each tree; empty if it never came so far."""
        count = 1 + len(self._loans) + (self._folder is not None)
        found = self._passage.collect(count)
        return found if len(found) == count else []


def _as_it_was(path: str) -> int:
    """A descriptor of all that is mounted there, read-only and attached nowhere."""
    try:
        tree = lending.clone(path)
        syscalls.make_tree_read_only(tree)
    except OSError as error:
        raise step_error("keep a view of the host", "mount", error) from error
    return tree


class Roots:
    """Makes the roots of one launcher's children."""

    def __init__(self, launcher: Launcher, in_use: InUse) -> None:
        self._launcher = launcher
        self._in_use = in_use
        self._surveys: dict[tuple[object, ...], _Surveyed] = {}
        self._plans: dict[tuple[object, ...], overlays.OverlayRoot] = {}
        self._generation = -1
        self._files: dict[tuple[object, ...], private_files.PrivateFiles | None] = {}
        self._layers: dict[tuple[bool, str | None], OwnershipLayer] = {}
        self._folders: dict[tuple[object, ...], tuple[Tree, overlays.OverlayRoot]] = {}
        self._images: dict[tuple[object, ...], Image] = {}
        self._own_ids: Ids | None = None

    def plan(
        self, request: IsolationRequest, mounts: MountPlan, generation: int, *, looks: bool
    ) -> OverlaidRoot | PrivateFilesOnly | None:
        """What the child of this request does for its files; None: nothing.

        :param mounts: what it mounts before.
        :param generation: another one as soon as something is mounted or unmounted here.
        :param looks: the child is to see the host's files as they were, beside its own.
        :raises StepError: for what this host does not have, or has in use.
        :raises RefusedError: when the ownership layer cannot be made.
        """
        ids = self._ids(request)
        owner = self._owner(request, ids)
        if request.has_foreign_root:
            return self._path_root(request, mounts, ids, owner, looks=looks)
        wishes = Wishes(request, owner, self._needed() if request.hide else ())
        if request.root != "overlay":
            files = self._bound(wishes, (), lambda _: True)
            return None if files is None else PrivateFilesOnly(files)
        if generation != self._generation:
            self._generation = generation
            self._surveys.clear()
        through = (*_OWN, *(cover for cover in mounts.covers if not cover.startswith("/dev")))
        surveyed = self._surveyed(through, wishes.hidden)
        stay = stays(request, self._in_use)
        layered = frozenset[str]() if ids is None else surveyed.not_of(ids)
        same = request.user == "same" and not self._launcher.host.privileged

        def bound(path: str) -> bool:
            return surveyed.survey.is_bound(path) or any(is_in(path, other) for other in stay)

        own_proc = "pid" in mounts.own
        key = (through, stay, request.root_size, request.user, wishes.key, own_proc)
        if (plan := self._plans.get(key)) is None:
            plan = self._plans[key] = overlays.plan_overlays(
                surveyed.survey,
                surveyed.points,
                size=request.root_size or _SIZE,
                whole_proc=own_proc,
                stays=stay,
                owners=overlays.Owners(owner, mode_for_others if same else _as_it_is, layered),
                contents=wishes.contents(surveyed.survey, bound),
            )
        files = self._bound(wishes, (through, stay), bound)
        layer = self._layer(layered, same=same)
        loans = () if layer is None else (Loan(layer, overlays.LAYER),)
        one_id = ids is not None and not self._launcher.host.privileged
        return OverlaidRoot(plan, loans, files, one_id=one_id, looks=looks)

    def _path_root(
        self,
        request: IsolationRequest,
        mounts: MountPlan,
        ids: Ids | None,
        owner: Callable[[os.stat_result], tuple[int, int] | None],
        *,
        looks: bool,
    ) -> OverlaidRoot:
        """A folder or an image in place of the host's root."""
        from pytest_nsisolate.process import path_root

        assert request.root is not None
        points = read_mounts()
        path = path_root.check(request.root, mounts.covers, points)
        stay = stays(request, self._in_use)
        files = tuple((name, read_content(content)) for name, content in request.files)
        image = self._image(path, request)
        loans: tuple[Loan, ...] = ()
        layered = frozenset[str]()
        if image is not None:
            loans = (Loan(image, overlays.BASE),)
            top = f"/proc/self/fd/{loans[0].attachment.tree}"
        else:
            top = path
            layered = layered if ids is None else path_root.not_of(path, ids)
        try:
            wishes = (stay, request.root_size, request.user, files, request.hide)
            key = (path, image, layered, "pid" in mounts.own, *wishes, *self._in_use.mark())
            kept = self._folders.get(key)
            if kept is None or (image is None and not kept[0].holds()):
                if len(self._folders) > _MOST_PLANS:
                    self._folders.clear()
                tree = path_root.Tree(top)
                with failing(f"look into {path}", "mount"):
                    shown = path_root.shown(tree, stay, self._in_use)
                same = request.user == "same" and not self._launcher.host.privileged
                mode = mode_for_others if same else _as_it_is
                plan = path_root.plan(
                    tree,
                    path,
                    size=request.root_size or _SIZE,
                    flags=MS_NODEV if image is not None else path_root.flags_of(path, points),
                    whole_proc="pid" in mounts.own,
                    shown=shown,
                    owners=overlays.Owners(owner, mode, layered),
                    contents=path_root.contents(tree, shown, files, request.hide, owner),
                )
                kept = self._folders[key] = (tree, plan)
            if layered:
                layer = self._layer(layered, same=request.user == "same", base=path)
                assert layer is not None
                loans = (Loan(layer, overlays.LAYER),)
        except BaseException:
            for loan in loans:
                loan.cancel()
            raise
        return OverlaidRoot(
            kept[1],
            loans,
            None,
            one_id=ids is not None and not self._launcher.host.privileged,
            looks=looks,
            folder=path if image is None else None,
            whole=True,
        )

    def _image(self, path: str, request: IsolationRequest) -> Image | None:
        """What is to be unpacked; None for a folder that is a root itself."""
        from pytest_nsisolate.process import path_root

        if os.path.isdir(path) and not path_root.is_layout(path):
            return None
        from pytest_nsisolate.process import image

        size = request.root_size or _SIZE
        with failing(f"unpack {path}", "mount"):
            ranged = request.user == "range"
            key = (path, size, "user" in request.namespaces, ranged, *image.mark(path))
        found = self._images.get(key)
        if found is None:
            for old in [one for one in self._images if one[:4] == key[:4]]:
                self._images.pop(old).close()  # the archive has another content now
            found = self._images[key] = image.Image(self._launcher, path, size, request, key)
        return found

    def _surveyed(self, through: tuple[str, ...], hidden: tuple[str, ...]) -> _Surveyed:
        surveyed = self._surveys.get((through, hidden))
        if surveyed is None or not surveyed.holds() or len(self._plans) > _MOST_PLANS:
            self._surveys.clear()
            self._plans.clear()
            surveyed = self._surveys[through, hidden] = _Surveyed(through, hidden)
        return surveyed

    def _bound(
        self, wishes: Wishes, place: tuple[object, ...], bound: Callable[[str], bool]
    ) -> private_files.PrivateFiles | None:
        key = (wishes.key, place)
        if key not in self._files:
            if len(self._files) > _MOST_PLANS:
                self._files.clear()
            self._files[key] = wishes.bound(bound)
        return self._files[key]

    def descriptors(self) -> tuple[int, ...]:
        """What no child must have, but for what :meth:`plan` has given it."""
        trees = (*self._layers.values(), *self._images.values())
        return tuple(fd for tree in trees for fd in tree.descriptors())

    def close(self) -> None:
        """Give everything back."""
        for tree in (*self._layers.values(), *self._images.values()):
            tree.close()
        self._layers.clear()
        self._images.clear()

    def _needed(self) -> tuple[str, ...]:
        return tuple(sorted({os.path.realpath(path) for path in self._in_use.paths()}))

    def _layer(
        self, layered: frozenset[str], *, same: bool, base: str | None = None
    ) -> OwnershipLayer | None:
        if not layered:
            return None
        layer = self._layers.get((same, base))
        if layer is None or not layered <= layer.places:
            if layer is not None:
                layer.close()
            layer = OwnershipLayer(self._launcher, layered, same=same, base=base)
            self._layers[same, base] = layer
        return layer

    def _ids(self, request: IsolationRequest) -> Ids | None:
        """Which of this process's world exist in the child's; None: all of them do."""
        host = self._launcher.host
        if not host.privileged and request.user == "range":
            return Ids(*self._launcher.planner.range_maps.extents)
        if not host.privileged:
            return Ids.one(host.euid, host.egid) if "user" in request.namespaces else None
        # This process may be in a user namespace itself, where files have owners without a number.
        if self._own_ids is None:
            with failing("read the id maps", "user"):
                self._own_ids = Ids.here()
        return self._own_ids

    def _owner(
        self, request: IsolationRequest, ids: Ids | None
    ) -> Callable[[os.stat_result], tuple[int, int] | None]:
        host = self._launcher.host
        if not host.privileged and request.user == "range":
            return self._launcher.planner.range_maps.inside
        own = (host.euid, host.egid)

        def owner(status: os.stat_result) -> tuple[int, int] | None:
            found = (status.st_uid, status.st_gid)
            exists = ids.have(status) if ids is not None else True
            return found if exists and found != own and host.privileged else None

        return owner


def stays(request: IsolationRequest, in_use: InUse) -> tuple[str, ...]:
    """Real paths that stay the host's in any root, outermost only.

    :raises StepError: ``leave PATH writable``, for one that is not there.
    """
    own = tuple(path for path in in_use.stays() if os.path.exists(path))
    if not request.writable:
        return own
    for path in request.writable:
        if not os.path.exists(path):
            raise StepError(f"leave {path} writable", "mount", errno.ENOENT)
    return tuple(covered.outermost((*map(os.path.realpath, request.writable), *own)))


def _as_it_is(status: os.stat_result, _: str) -> int:
    return S_IMODE(status.st_mode)


class _Surveyed:
    """The host's root, taken apart, as long as that holds."""

    def __init__(self, through: tuple[str, ...], hidden: tuple[str, ...]) -> None:
        self.points = read_mounts()
        self.survey = take_apart(self.points, through, hidden)
        self._marks = self._look()
        self._strange: dict[Ids, frozenset[str]] = {}

    def holds(self) -> bool:
        """No directory that is taken apart has changed since."""
        return self._look() == self._marks

    def not_of(self, ids: Ids) -> frozenset[str]:
        """Places whose owner or group is none of these."""
        if ids not in self._strange:
            found = ((path, status_of(path)) for path in self.survey.places)
            self._strange[ids] = frozenset(
                path for path, status in found if status is not None and not ids.have(status)
            )
        return self._strange[ids]

    def _look(self) -> list[tuple[int, ...]]:
        return [mark_of(status_of(path)) for path in ("/", *self.survey.folders)]
