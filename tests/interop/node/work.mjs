// A Node Worker until standard input closes. {queue, concurrency?}
import { Worker } from 'bullmq';
import { closing, connection, emit, input, run, stdinClosed } from './lib.mjs';

await run(async () => {
  const worker = closing(
    new Worker(
      input.queue,
      async (job) => {
        emit({ ran: job.id });
        return { node: true, children: await job.getChildrenValues() };
      },
      { connection, concurrency: input.concurrency ?? 1, name: 'node-worker' },
    ),
  );
  worker.on('error', (error) => emit({ error: String(error) }));
  worker.on('failed', (job, error) => emit({ failed: job?.id, reason: error.message }));
  await worker.waitUntilReady();
  emit({ working: true });
  await stdinClosed();
});
