// Add jobs; with `waitMs`, await each as an application does; with `hold`, none begins before all
// are awaited: a job that is removed at its end cannot be awaited afterwards.
// {queue, jobs, waitMs?, hold?}
import { Queue } from 'bullmq';
import { closing, connection, describe, emit, input, queueEvents, run } from './lib.mjs';

await run(async () => {
  const queue = closing(new Queue(input.queue, { connection }));
  const events = input.waitMs ? await queueEvents(input.queue) : null;
  if (input.hold) await queue.pause();
  const jobs = [];
  for (const { name = 'job', data, opts } of input.jobs) {
    const job = await queue.add(name, data, opts);
    emit({ added: job.id });
    jobs.push(job);
  }
  if (!events) return;
  const waits = jobs.map(async (job) => {
    try {
      emit({ finished: job.id, returnvalue: await job.waitUntilFinished(events, input.waitMs) });
    } catch (error) {
      emit({ finished: job.id, error: error.message });
    }
  });
  if (input.hold) {
    // Awaiting asks first whether the job has ended; answers come in order, so behind a few more
    // of them on the same connection every job is listened for.
    for (let round = 0; round < 5; round += 1) await queue.getJobCounts();
    await queue.resume();
  }
  await Promise.all(waits);
  for (const { id } of jobs) {
    const job = await queue.getJob(id);
    emit({ job: job ? await describe(job) : null });
  }
  emit({ counts: await queue.getJobCounts() });
});
