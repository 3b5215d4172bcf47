--[[
  Tell at one moment what shows whether a certain finish of a job was accepted.
    KEYS[1] job key
    KEYS[2] lock key
    KEYS[3] failed key
    ARGV[1] job id
    ARGV[2] name of the field that holds the history of its attempts
  Output: { lock, timestamp, finishedOn, history, score among the failed }, nil where there is none
]]
local fields = redis.call("HMGET", KEYS[1], "timestamp", "finishedOn", ARGV[2])
return {
  redis.call("GET", KEYS[2]), fields[1], fields[2], fields[3],
  redis.call("ZSCORE", KEYS[3], ARGV[1])
}
