-- Returns an entry, and notes that it was used.
-- KEYS: entry, index. ARGV: the entry's member of the index, now in milliseconds.
local value = redis.call("GET", KEYS[1])
if value then
  redis.call("ZADD", KEYS[2], "XX", ARGV[2], ARGV[1])
end
return value
