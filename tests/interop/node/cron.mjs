// When cron patterns are next due, as BullMQ's schedulers ask its cron-parser.
// {patterns, zones, times, count}
import { createRequire } from 'node:module';
import { emit, input } from './lib.mjs';

// It is a dependency of BullMQ's, not ours: found from there.
const { CronExpressionParser } = createRequire(import.meta.resolve('bullmq'))('cron-parser');

function due(pattern, tz, from) {
  const times = [];
  let currentDate = new Date(from);
  for (let n = 0; n < input.count; n += 1) {
    currentDate = new Date(CronExpressionParser.parse(pattern, { tz, currentDate }).next().getTime());
    times.push(currentDate.getTime());
  }
  return times;
}

for (const pattern of input.patterns) {
  for (const tz of input.zones) {
    for (const from of input.times) {
      try {
        emit({ pattern, tz, from, due: due(pattern, tz, from) });
      } catch (error) {
        emit({ pattern, tz, from, error: error.message });
      }
    }
  }
}
