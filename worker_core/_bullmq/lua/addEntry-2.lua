--[[
  Add an entry to a stream of the job's own, while the job is still the token's.
    KEYS[1] lock key
    KEYS[2] stream key
    ARGV[1] token
    ARGV[2] "fresh": what is there is of an earlier job with the same id and goes;
            "once": add where it is not the last already; "follow": the same, and only where there
            is a stream; "append" otherwise
    ARGV[3] about how many entries are kept
    ARGV[4] how long the stream is kept after this entry, in milliseconds; "" as long as before
    ARGV[5] the entry's data
  Output: 1 added, or there already, 0 there is no stream to follow, -2 the job is not the token's
]]
if redis.call("GET", KEYS[1]) ~= ARGV[1] then
  return -2
end
if ARGV[2] == "fresh" then
  redis.call("UNLINK", KEYS[2])
elseif ARGV[2] ~= "append" then
  local last = redis.call("XREVRANGE", KEYS[2], "+", "-", "COUNT", 1)[1]
  if last and last[2][2] == ARGV[5] then
    return 1
  elseif not last and ARGV[2] == "follow" then
    return 0
  end
end
redis.call("XADD", KEYS[2], "MAXLEN", "~", ARGV[3], "*", "data", ARGV[5])
if ARGV[4] ~= "" then
  redis.call("PEXPIRE", KEYS[2], ARGV[4])
end
return 1
