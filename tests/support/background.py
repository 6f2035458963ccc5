"""Tells what a call does from what a service does by itself meanwhile, where both are in the process of the test."""

import asyncio

from libs.common.shards import VISIT_NAME


def is_background_work() -> bool:
    """Whether the running task looks at a shard or a schema by itself, as the worker of events does each second."""
    task = asyncio.current_task()
    return task is not None and task.get_name().startswith(VISIT_NAME)
