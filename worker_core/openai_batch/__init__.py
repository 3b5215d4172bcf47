"""Batches in the form of OpenAI's Batch API: input files, output files, the batch object.

Pure but for reading the file that it is given. Requests become items of chat and embedding jobs,
answers become what OpenAI would have answered; what cannot be kept is refused by its line.
"""

from worker_core.openai_batch.batch_object import (
    ENDED,
    Submitted,
    batch_object,
    errors_name,
    output_name,
    refused_object,
    submitted_of,
)
from worker_core.openai_batch.endpoint import Endpoint
from worker_core.openai_batch.faults import BadInputFile, FaultCode, LineFault
from worker_core.openai_batch.input_file import MAX_BYTES, Contents, inspect, items_of
from worker_core.openai_batch.output_lines import LineWriter, OutputLine, Target

__all__ = [
    "ENDED",
    "MAX_BYTES",
    "BadInputFile",
    "Contents",
    "Endpoint",
    "FaultCode",
    "LineFault",
    "LineWriter",
    "OutputLine",
    "Submitted",
    "Target",
    "batch_object",
    "errors_name",
    "inspect",
    "items_of",
    "output_name",
    "refused_object",
    "submitted_of",
]
