"""worker-core: a background worker for LLM jobs on BullMQ queues, composed from plugins."""

from worker_core.config import EnvUnit, setting
from worker_core.engine import (
    JSON,
    ChatAnswer,
    ChatCall,
    ChatChunk,
    EmbedAnswer,
    EmbedCall,
    Engine,
    EngineProgress,
    Host,
    HostLimits,
    Message,
    Operation,
    Phase,
)
from worker_core.errors import (
    EngineError,
    FailureClass,
    Fault,
    InvalidRequest,
    Unrecoverable,
    WorkerCoreError,
)
from worker_core.hookspecs import hookimpl
from worker_core.job import Job, JobContext, JobEvent, JobStep, JobType, Outcome, QueueSpec
from worker_core.service import RestartPolicy, Service, ServiceContext

__all__ = [
    "JSON",
    "ChatAnswer",
    "ChatCall",
    "ChatChunk",
    "EmbedAnswer",
    "EmbedCall",
    "Engine",
    "EngineError",
    "EngineProgress",
    "EnvUnit",
    "FailureClass",
    "Fault",
    "Host",
    "HostLimits",
    "InvalidRequest",
    "Job",
    "JobContext",
    "JobEvent",
    "JobStep",
    "JobType",
    "Message",
    "Operation",
    "Outcome",
    "Phase",
    "QueueSpec",
    "RestartPolicy",
    "Service",
    "ServiceContext",
    "Unrecoverable",
    "WorkerCoreError",
    "hookimpl",
    "setting",
]
