// Pause or resume a queue. {queue, do}
import { Queue } from 'bullmq';
import { closing, connection, emit, input, run } from './lib.mjs';

await run(async () => {
  const queue = closing(new Queue(input.queue, { connection }));
  await queue[input.do]();
  emit({ paused: await queue.isPaused() });
});
