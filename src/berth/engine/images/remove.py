"""Removing images: untag or delete by Docker's rules, prune, and letting go of content that nothing needs any more.

An index goes with the last name that means it, or with the image that stands for it; its other platforms go along unless
something else needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from berth.contract.image import Image
from berth.contract.store import Blobs, Layers
from berth.contract.usage import Usage, User
from berth.engine.events import Events
from berth.engine.images.lease import Leases
from berth.engine.images.store import ImageStore, is_id_of
from berth.engine.images.view import labels_of
from berth.errors import Conflict, NotFound
from berth.model.digest import Digest
from berth.model.filters import Filters
from berth.model.identifier import short_id
from berth.model.instant import parse_moment
from berth.model.reference import Reference, parse
from berth.storage.database import Database
from berth.wire.image import ImageDeleteResponseItem

PRUNE_FILTERS = ("dangling", "label", "label!", "until")


class Remover:
    """DELETE /images/{name} and POST /images/prune."""

    def __init__(
        self,
        database: Database,
        events: Events,
        blobs: Blobs,
        layers: Layers,
        store: ImageStore,
        leases: Leases,
        usage: Callable[[], Usage | None],
    ) -> None:
        self._database = database
        self._events = events
        self._blobs = blobs
        self._layers = layers
        self._store = store
        self._leases = leases
        self._usage = usage

    async def remove(
        self, name: str, *, force: bool = False, prune_parents: bool = True, platforms: Sequence[str] = ()
    ) -> list[ImageDeleteResponseItem]:
        """Untag, or delete when it was the last name; with `platforms` only what is here for those. Conflict in Docker's words
        when something stands against it."""
        image = self._store.get(name)
        records: list[ImageDeleteResponseItem] = []
        if self._means_one_platform(image, name):
            await self._remove_platform(image, records, force=force)
            return records
        for platform in platforms:
            found = self._store.for_platform(self._store.get(name), name, platform)
            if len(self._store.platforms(found)) == 1:
                break
            await self._remove_platform(found, records, force=force)
        else:
            if platforms:
                return records
        await self._remove(self._store.get(name), name, records, force=force, prune_parents=prune_parents)
        return records

    async def _remove(
        self, image: Image, name: str, records: list[ImageDeleteResponseItem], *, force: bool, prune_parents: bool
    ) -> None:
        names = self._store.names(image.id).all
        by_name = self._store.is_name(name)
        if by_name:
            self._untag_one(image, name, names, force, records)
            if self._store.names(image.id).all:
                if image.index is not None and not self._store.indexes.is_named(image.index):
                    await self._drop_index(image.index, image, records, force=False)
                return
        elif _single(names):
            self._check(image, force=force, references=False)
            for reference in names:
                self._untag(image, reference, records)
        await self._delete(image, records, force=force, prune_parents=prune_parents, quiet=by_name)

    def _means_one_platform(self, image: Image, name: str) -> bool:
        """The digest of a manifest, or the id of an image that does not stand for its index, means one of several platforms;
        the id of the one that does, and the index's digest, mean all."""
        if image.index is None or self._store.is_name(name) or len(self._store.platforms(image)) == 1:
            return False
        return not self._store.listed(image.id) or not (is_id_of(name, image.id) or is_id_of(name, image.index))

    def _untag_one(
        self, image: Image, given: str, names: tuple[Reference, ...], force: bool, records: list[ImageDeleteResponseItem]
    ) -> None:
        """Remove one name, as the user gave it."""
        users = self._users(image)
        if not force and _single(names) and users:
            raise Conflict(
                f'conflict: unable to remove repository reference "{given}" (must force) - '
                f"container {short_id(users[0].id)} is using its referenced image {short_id(image.id)}"
            )
        reference = parse(given)
        self._untag(image, reference, records)
        left = self._store.names(image.id)
        if reference.digest is None and not any(tag.repository == reference.repository for tag in left.tags):
            for digest in left.digests:
                if digest.repository == reference.repository:
                    self._untag(image, digest, records)

    def _untag(self, image: Image, reference: Reference, records: list[ImageDeleteResponseItem]) -> None:
        self._store.untag(reference)
        if reference.digest is not None:
            self._delete_blob(reference.digest)
        records.append(ImageDeleteResponseItem(untagged=reference.familiar))
        self._events.publish("image", "untag", image.id, {"name": image.id, **labels_of(image.document)})

    def _users(self, image: Image, *, alone: bool = False) -> list[User]:
        """Containers of the image and, unless `alone`, of what would go with it."""
        usage = self._usage()
        if usage is None:
            return []
        meant = {image.id: None}
        for index in () if alone else self._store.indexes.represented_by(image.id):
            meant |= dict.fromkeys(self._store.indexes.members(index).values())
        return [user for member in meant for user in usage.of_image(member)]

    def _check(self, image: Image, *, force: bool, references: bool = True, alone: bool = False) -> None:
        users = self._users(image, alone=alone)
        running = next((user for user in users if user.running), None)
        if running is not None:
            raise _Conflict(image.id, "cannot be forced", f"image is being used by running container {short_id(running.id)}")
        if self._store.children(image.id):
            raise _Conflict(image.id, "cannot be forced", "image has dependent child images")
        if force:
            return
        if references and self._store.names(image.id).all:
            raise _Conflict(image.id, "must be forced", "image is referenced in multiple repositories")
        if users:
            raise _Conflict(image.id, "must be forced", f"image is being used by stopped container {short_id(users[0].id)}")

    async def _delete(
        self, image: Image, records: list[ImageDeleteResponseItem], *, force: bool, prune_parents: bool, quiet: bool
    ) -> None:
        try:
            self._check(image, force=force)
        except _Conflict:
            # Somebody who removed a name got that; that the image itself is needed is no error then.
            if quiet:
                return
            raise
        for reference in self._store.names(image.id).all:
            self._untag(image, reference, records)
        for index in self._store.indexes.represented_by(image.id):
            await self._drop_index(index, image, records, force=force)
        await self.forget(image, records)
        parent = self._store.by_id(image.parent) if image.parent and prune_parents else None
        if parent is not None and not self._store.names(parent.id).all:
            await self._delete(parent, records, force=False, prune_parents=True, quiet=True)

    async def forget(self, image: Image, records: list[ImageDeleteResponseItem]) -> None:
        """Delete the image's row, then its content as far as nothing else needs it."""
        self._store.delete(image.id)
        records.append(ImageDeleteResponseItem(deleted=image.id))
        self._events.publish("image", "delete", image.id, {"name": image.id, **labels_of(image.document)})
        self._delete_blob(image.id)
        for chain in await self.release(image.chain_id):
            records.append(ImageDeleteResponseItem(deleted=chain))

    # Indexes

    async def _remove_platform(self, image: Image, records: list[ImageDeleteResponseItem], *, force: bool) -> None:
        """Take one image out of the index that it was found by."""
        assert image.index is not None
        self._check(image, force=force, references=False, alone=True)
        for manifest, member in self._store.indexes.members(image.index).items():
            if member == image.id:
                gone = self._store.remove_member(image.index, manifest)
                records.append(ImageDeleteResponseItem(deleted=manifest))
                for digest in gone:
                    self._delete_blob(digest)
        await self._forget_unneeded(image, records, force=True)

    async def _drop_index(self, index: Digest, standing: Image, records: list[ImageDeleteResponseItem], *, force: bool) -> None:
        """Forget an index, and its images but for the one that stands for it."""
        members = self._store.platforms(standing) if standing.index == index else self._members(index)
        content = self._store.indexes.content(index)
        self._store.delete_index(index)
        for digest in (*content, index):
            self._delete_blob(digest)
        for member in members:
            if member.id != standing.id:
                await self._forget_unneeded(member, records, force=force)

    def _members(self, index: Digest) -> list[Image]:
        found = (self._store.by_id(member) for member in dict.fromkeys(self._store.indexes.members(index).values()))
        return [image for image in found if image is not None]

    async def _forget_unneeded(self, image: Image, records: list[ImageDeleteResponseItem], *, force: bool) -> None:
        """Delete an image that was one of an index's, unless a name, another index, a container or an image needs it."""
        if self._store.names(image.id).all or self._store.indexes.of_image(image.id) or self._store.children(image.id):
            return
        if force or not self._users(image, alone=True):
            await self.forget(image, records)

    def _delete_blob(self, digest: Digest) -> None:
        row = self._database.row(
            "SELECT 1 FROM repo_digests WHERE reference LIKE ? UNION SELECT 1 FROM images WHERE id = ?"
            " UNION SELECT 1 FROM indexes WHERE digest = ? UNION SELECT 1 FROM index_content WHERE digest = ?"
            " UNION SELECT 1 FROM layers WHERE instr(CAST(blob AS TEXT), ?) LIMIT 1",
            (f"%@{digest}", digest, digest, digest, digest),
        )
        if row is None and not self._leases.holds(digest):
            self._blobs.delete(digest)

    async def release(self, top: Digest | None) -> list[Digest]:
        """Remove layers from the top down to the first that something needs. What was removed."""
        removed: list[Digest] = []
        current = top
        while current is not None:
            layer = self._layers.get(current)
            if layer is None or self._store.uses_chain(current) or self._leases.holds(current):
                break
            try:
                await self._layers.remove(current)
            except (Conflict, NotFound):
                break
            removed.append(current)
            if layer.blob is not None:
                self._delete_blob(layer.blob.digest)
            current = layer.parent
        return removed

    async def prune(self, filters: Filters, now: float) -> tuple[list[ImageDeleteResponseItem], int]:
        """Dangling images, or with dangling=false all unused ones, each with all its platforms. Records, and bytes freed."""
        only_dangling = filters.flag("dangling", default=True)
        until = min((parse_moment(value, now) for value in filters.get("until")), default=None)
        records: list[ImageDeleteResponseItem] = []
        freed = 0
        for image in self._store.all():
            if until is not None and image.created > until:
                continue
            labels = labels_of(image.document)
            if not filters.match_labels(labels) or any(_has_label(labels, text) for text in filters.get("label!")):
                continue
            if (only_dangling and image.tags) or self._users(image) or self._store.children(image.id):
                continue
            members = [member for index in self._store.indexes.represented_by(image.id) for member in self._members(index)]
            sizes = {layer.chain_id: layer.size for one in (image, *members) for layer in self._store.stack(one)}
            before = len(records)
            for reference in self._store.names(image.id).all:
                self._untag(image, reference, records)
            await self._delete(image, records, force=False, prune_parents=True, quiet=True)
            freed += sum(sizes.get(Digest(record.deleted or ""), 0) for record in records[before:])
        self._events.publish("image", "prune", "", {"reclaimed": str(freed)})
        return records, freed


class _Conflict(Conflict):
    def __init__(self, image_id: str, how: str, why: str) -> None:
        super().__init__(f"conflict: unable to delete {short_id(image_id)} ({how}) - {why}")


def _single(names: tuple[Reference, ...]) -> bool:
    """At most one tag, and all names in one repository: then an id is as good as the name."""
    tags = sum(1 for name in names if name.digest is None)
    return tags <= 1 and len({name.repository for name in names}) <= 1


def _has_label(labels: dict[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)
