// Read jobs, the queue and its charts as a dashboard does. {queue, ids}
import { Job, Queue } from 'bullmq';
import { closing, connection, describe, emit, input, run } from './lib.mjs';

await run(async () => {
  const queue = closing(new Queue(input.queue, { connection }));
  for (const id of input.ids ?? []) {
    const job = await Job.fromId(queue, id);
    const logs = await queue.getJobLogs(id);
    emit({ job: job ? { ...(await describe(job)), logs: logs.logs } : null });
  }
  emit({
    counts: await queue.getJobCounts(),
    workers: await queue.getWorkers(),
    charts: {
      completed: (await queue.getMetrics('completed')).meta.count,
      failed: (await queue.getMetrics('failed')).meta.count,
    },
  });
});
