"""What a further agent may use: read files and changes of the git store. Nothing here writes."""

from __future__ import annotations

from pydantic import BaseModel

from agents.tools.toolbox import Toolbox, tool
from contracts.errors import GavotteError


class FilesOf(BaseModel):
    """A commit of the git store."""

    commit: str


class FileNames(BaseModel):
    """Paths of a commit, sorted."""

    paths: tuple[str, ...] = ()


class FileOf(BaseModel):
    """One file of a commit, up to `bytes_max`."""

    commit: str
    path: str
    bytes_max: int = 256 * 1024


class FileText(BaseModel):
    """The file's text; `problem` where it cannot be read."""

    text: str = ""
    problem: str = ""


class ReadingTools(Toolbox):
    """Looks at what others wrote; its calls are journaled like every tool's."""

    @tool
    async def list_files(self, arguments: FilesOf) -> FileNames:
        """List the paths of a commit."""
        return FileNames(paths=tuple(entry.path for entry in await self.resources.git.list_files(arguments.commit)))

    @tool
    async def read_file(self, arguments: FileOf) -> FileText:
        """Read one text file of a commit."""
        try:
            raw = await self.resources.git.read_file(arguments.commit, arguments.path, arguments.bytes_max)
        except GavotteError as error:
            return FileText(problem=str(error))
        return FileText(text=raw.decode("utf-8", "replace"))
