-- Keeps an entry, and drops those used least lately where there are too many.
-- KEYS: entry, index. ARGV: the entry's member of the index, its value, now and its time to live in
-- milliseconds, when what was last used before has run out, most entries, what keys of entries begin with.
local member, value, now, ttl, gone, most, base = unpack(ARGV)
redis.call("SET", KEYS[1], value, "PX", ttl)
redis.call("ZADD", KEYS[2], now, member)
redis.call("ZREMRANGEBYSCORE", KEYS[2], "-inf", "(" .. gone)
-- Bounded: where the limit was lowered, each call drops some.
local surplus = math.min(redis.call("ZCARD", KEYS[2]) - tonumber(most), 100)
if surplus > 0 then
  local dropped = redis.call("ZPOPMIN", KEYS[2], surplus)
  for i = 1, #dropped, 2 do
    redis.call("DEL", base .. dropped[i])
  end
end
redis.call("PEXPIRE", KEYS[2], ttl)
return 1
