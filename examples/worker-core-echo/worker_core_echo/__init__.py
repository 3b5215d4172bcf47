"""A plugin with one job type: it says what it is told, as often as it is told."""

import attrs

from worker_core import JobType, QueueSpec, hookimpl


@attrs.frozen
class EchoSettings:
    """What `[plugins.echo]` may hold."""

    queue: str = "echo"
    shout: bool = False


@attrs.frozen
class EchoRequest:
    """What a job's data must be."""

    text: str
    times: int = 1


class EchoJobType(JobType[EchoRequest]):
    """How such a job runs."""

    name = "echo"
    request = EchoRequest
    needs_engine = False

    def __init__(self, settings):
        self.settings = settings

    @property
    def queues(self):
        """The queues that feed it."""
        return [QueueSpec(self.settings.queue)]

    async def run(self, request, context):
        """Answer one request."""
        text = request.text.upper() if self.settings.shout else request.text
        for said in range(request.times):
            context.progress({"said": said + 1})
        return " ".join([text] * request.times)


class EchoPlugin:
    """What the entry point names."""

    Settings = EchoSettings

    def __init__(self, settings):
        self.settings = settings

    @hookimpl
    def worker_core_job_types(self):
        """Offer the job type to the worker."""
        return [EchoJobType(self.settings)]
