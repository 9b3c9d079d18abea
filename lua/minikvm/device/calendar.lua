-- calendar.lua - seconds since 1970 (UTC) and dates of the Gregorian calendar, which it takes to go
-- on for ever in both directions. Pure arithmetic: no locale, no time zone, any integer.
--
-- Years are counted from March, so that the day that comes and goes is the last one; 400 of them
-- have 146097 days.

local M = {}

local DAY <const>, ERA <const> = 86400, 146097
local TO_1970 <const> = 719468 -- days from 0000-03-01 to 1970-01-01

---Days from 1970-01-01. Months beyond 12 and days beyond the month's last count on.
local function days(year, month, day)
  local months = year * 12 + month - 3 -- since March of year 0
  local y, m = months // 12, months % 12
  local era, of_era = y // 400, y % 400
  return era * ERA + of_era * 365 + of_era // 4 - of_era // 100 + (153 * m + 2) // 5 + day - 1
    - TO_1970
end

---Seconds since 1970 at the beginning of a day.
---@param year integer
---@param month integer  1 to 12; others count on into other years
---@param day integer  1 to 31; others count on into other months
---@return integer
function M.to_seconds(year, month, day)
  return days(year, month, day) * DAY
end

---@class minikvm.date
---@field year integer
---@field month integer  1 to 12
---@field day integer  1 to 31
---@field weekday integer  1 (Sunday) to 7
---@field hour integer
---@field minute integer
---@field second integer

---@param seconds integer  since 1970
---@return minikvm.date
function M.from_seconds(seconds)
  local day, rest = seconds // DAY, seconds % DAY
  local shifted = day + TO_1970
  local era, of_era = shifted // ERA, shifted % ERA
  local year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
  local of_year = of_era - (365 * year + year // 4 - year // 100)
  local month = (5 * of_year + 2) // 153 -- from March, 0 to 11
  return {
    year = era * 400 + year + (month >= 10 and 1 or 0), month = (month + 2) % 12 + 1,
    day = of_year - (153 * month + 2) // 5 + 1, weekday = (day + 4) % 7 + 1,
    hour = rest // 3600, minute = rest // 60 % 60, second = rest % 60,
  }
end

return M
