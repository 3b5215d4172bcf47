// Reads a job's token stream by the lines of docs/operations.md. {id, code}
import { createRequire } from 'node:module';
import { closing, connection, emit, input, run } from './lib.mjs';

// It is a dependency of BullMQ's, not ours: found from there.
const { Redis } = createRequire(import.meta.resolve('bullmq'))('ioredis');
const AsyncFunction = (async () => {}).constructor;

await run(async () => {
  const redis = new Redis(connection);
  closing({ close: () => redis.disconnect() });
  const read = new AsyncFunction('redis', 'job', 'show', `${input.code}\nreturn { answer, end };`);
  emit(await read(redis, { id: input.id }, (answer) => emit({ answer, at: Date.now() })));
});
