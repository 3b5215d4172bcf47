"""Says what it is told, as often as it is told."""

import attrs

from worker_core import JobContext, JobType, QueueSpec, hookimpl


@attrs.frozen
class EchoSettings:
    shout: bool = False


@attrs.frozen
class EchoRequest:
    text: str
    times: int = 1


class EchoJobType(JobType[EchoRequest]):
    name = "echo"
    queues = (QueueSpec("echo"),)
    request = EchoRequest
    needs_engine = False

    def __init__(self, settings: EchoSettings) -> None:
        self.shout = settings.shout

    async def run(self, request: EchoRequest, context: JobContext) -> str:
        context.progress({"words": request.times})
        answer = " ".join([request.text] * request.times)
        return answer.upper() if self.shout else answer


class EchoPlugin:
    Settings = EchoSettings

    def __init__(self, settings: EchoSettings) -> None:
        self.settings = settings

    @hookimpl
    def worker_core_job_types(self) -> list[EchoJobType]:
        return [EchoJobType(self.settings)]
