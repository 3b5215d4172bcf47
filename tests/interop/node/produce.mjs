// Add jobs; with `waitMs`, await each as an application does. {queue, jobs, waitMs?}
import { Queue } from 'bullmq';
import { closing, connection, describe, emit, input, queueEvents, run } from './lib.mjs';

await run(async () => {
  const queue = closing(new Queue(input.queue, { connection }));
  const events = input.waitMs ? await queueEvents(input.queue) : null;
  const jobs = [];
  for (const { name = 'job', data, opts } of input.jobs) {
    const job = await queue.add(name, data, opts);
    emit({ added: job.id });
    jobs.push(job);
  }
  if (!events) return;
  await Promise.all(
    jobs.map(async (job) => {
      try {
        emit({ finished: job.id, returnvalue: await job.waitUntilFinished(events, input.waitMs) });
      } catch (error) {
        emit({ finished: job.id, error: error.message });
      }
    }),
  );
  for (const { id } of jobs) {
    const job = await queue.getJob(id);
    emit({ job: job ? await describe(job) : null });
  }
  emit({ counts: await queue.getJobCounts() });
});
