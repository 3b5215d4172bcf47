--[[
  Add an entry to a stream of the job's own, while the job is still the token's.
    KEYS[1] lock key
    KEYS[2] stream key
    ARGV[1] token
    ARGV[2] "fresh": what is there is of an earlier job with the same id and goes;
            "follow": add only where there is a stream; "append" otherwise
    ARGV[3] about how many entries are kept
    ARGV[4] how long the stream is kept after this entry, in milliseconds
    ARGV[5] the entry's data
  Output: 1 added, 0 there is no stream to follow, -2 the job is not the token's
]]
if redis.call("GET", KEYS[1]) ~= ARGV[1] then
  return -2
end
if ARGV[2] == "fresh" then
  redis.call("UNLINK", KEYS[2])
elseif ARGV[2] == "follow" and redis.call("EXISTS", KEYS[2]) == 0 then
  return 0
end
redis.call("XADD", KEYS[2], "MAXLEN", "~", ARGV[3], "*", "data", ARGV[5])
redis.call("PEXPIRE", KEYS[2], ARGV[4])
return 1
