"""TensorBoard events, written by the thread that logs.

tensorboardX's own SummaryWriter hands them to another thread; on a full disk that thread dies, and the first one waits
for it without end.
"""

import contextlib
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hippodrome.training.errors import TrainingError


class EventWriter:
    """Appends numbers and images to a new event file.

    Args:
        folder: of the run; it exists.
        resume_step: env_steps that the run goes on from: TensorBoard forgets later points of earlier files. None for a
            new run.
        suffix: of the file's name, for a writer beside that of the training.

    Raises:
        TrainingError: if the file cannot be written; so do the methods.
    """

    def __init__(self, folder: str | Path, resume_step: int | None = None, *, suffix: str = ""):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self.folder = Path(folder)
        purge_step = None if resume_step is None else resume_step + 1
        try:
            # The name holds whole seconds: without the step, a quick resume would overwrite the file before.
            self._events = EventsWriter(str(self.folder / "events"), f".{purge_step or 0}{suffix}")
            if purge_step is not None:
                start = SessionLog(status=SessionLog.START)
                self._events.write_event(Event(wall_time=time.time(), step=purge_step, session_log=start))
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def write(self, scalars: Mapping[str, int | float], step: int) -> None:
        """Append numbers at one step, and flush."""
        from tensorboardX.proto.summary_pb2 import Summary

        self._append([Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()], step)

    def image(self, tag: str, png: bytes, step: int) -> None:
        """Append an image at one step, and flush.

        Args:
            tag: its name.
            png: a PNG file of eight bits a channel, as matplotlib writes them.
            step: env_steps.

        Raises:
            ValueError: if it is no PNG.
        """
        from tensorboardX.proto.summary_pb2 import Summary

        if not png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ValueError(f"image {tag!r} begins with {png[:8]!r}; it must be a PNG")
        # The header: width, height, bits, and the kind of colours (0 grey, 2 RGB, 4 grey and alpha, 6 RGBA).
        width, height, _, colours = struct.unpack(">IIBB", png[16:26])
        colorspace = {0: 1, 4: 2, 6: 4}.get(colours, 3)
        image = Summary.Image(height=height, width=width, colorspace=colorspace, encoded_image_string=png)
        self._append([Summary.Value(tag=tag, image=image)], step)

    def _append(self, values: list[Any], step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        try:
            self._events.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
            self._events.flush()
        except OSError as error:
            # What is buffered cannot be written; closing now keeps it from being tried again at exit.
            with contextlib.suppress(OSError):
                self._events.close()
            with contextlib.suppress(OSError):
                self._events._py_recordio_writer.close()
            raise cannot_write(self.folder, error) from error

    def close(self) -> None:
        """Close the file; what it holds is flushed already."""
        with contextlib.suppress(OSError, ValueError):
            self._events.close()


def cannot_write(folder: Path, error: OSError) -> TrainingError:
    """What to say where a file of a run cannot be written, as on a full disk."""
    return TrainingError(
        f"the log in {folder} cannot be written: {error.strerror}; free some space and go on with "
        f"`hippodrome train --resume {folder}`"
    )
