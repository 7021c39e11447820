"""A fifth agent: it looks at every proposed change for files of a copyleft licence, and says what it found.

Start it beside the others, with the same data folder: `gavotte agent examples/licence_scan.py`.
"""

from agents.tools.reading_tools import FileOf, ReadingTools
from contracts.envelope import Event
from contracts.events import ChangeProposed, Payload
from contracts.topology import Agent

MARKS = ("GNU GENERAL PUBLIC LICENSE", "GNU AFFERO GENERAL PUBLIC LICENSE")


class LicencesScanned(Payload):
    """The files of a proposed change were read for licences that oblige whoever ships them."""

    head_commit: str
    files: tuple[str, ...] = ()
    copyleft: tuple[str, ...] = ()


AGENT = Agent("licences", consumes=("ChangeProposed",), emits=("LicencesScanned",))
EVENTS = (LicencesScanned,)


async def handle(event: Event, state: object, tools: ReadingTools) -> list[Event]:
    """One annotation for each proposed change. It moves nothing; whoever wants to may consume it."""
    change = event.payload
    assert isinstance(change, ChangeProposed)
    files = tuple(file.path for file in change.files if file.kind != "deleted")
    found = []
    for path in files:
        read = await tools.read_file(FileOf(commit=change.head_commit, path=path))
        if any(mark in read.text.upper() for mark in MARKS):
            found.append(path)
    return [event.cause(LicencesScanned(head_commit=change.head_commit, files=files, copyleft=tuple(found)))]
