"""worker-core: a background worker for LLM jobs on BullMQ queues, composed from plugins."""

from worker_core.backoff import BackoffStrategy, FailedAttempt
from worker_core.children import AddOptions, ChildFailure, ChildJobs
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
from worker_core.inner import InnerResult, InnerTypes
from worker_core.job import (
    Job,
    JobContext,
    JobEvent,
    JobStep,
    JobType,
    Outcome,
    QueueSpec,
    RateLimit,
)
from worker_core.service import RestartPolicy, Service, ServiceContext
from worker_core.signals import DelayJob, GiveBack, JobSignal, RateLimited, WaitForChildren

__all__ = [
    "JSON",
    "AddOptions",
    "BackoffStrategy",
    "ChatAnswer",
    "ChatCall",
    "ChatChunk",
    "ChildFailure",
    "ChildJobs",
    "DelayJob",
    "EmbedAnswer",
    "EmbedCall",
    "Engine",
    "EngineError",
    "EngineProgress",
    "EnvUnit",
    "FailedAttempt",
    "FailureClass",
    "Fault",
    "GiveBack",
    "Host",
    "HostLimits",
    "InnerResult",
    "InnerTypes",
    "InvalidRequest",
    "Job",
    "JobContext",
    "JobEvent",
    "JobSignal",
    "JobStep",
    "JobType",
    "Message",
    "Operation",
    "Outcome",
    "Phase",
    "QueueSpec",
    "RateLimit",
    "RateLimited",
    "RestartPolicy",
    "Service",
    "ServiceContext",
    "Unrecoverable",
    "WaitForChildren",
    "WorkerCoreError",
    "hookimpl",
    "setting",
]
