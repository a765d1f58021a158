variable "name" {
  description = "What the names of roles, schedules and logs begin with."
  type        = string
  default     = "holdfast"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,31}$", var.name))
    error_message = "A name has 3 to 32 lower-case letters, digits and hyphens, and begins with a letter."
  }
}

variable "account_id" {
  description = "Id of the account, so that nobody else's service can stand in for one of this account."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "An account's id has 12 digits."
  }
}

variable "region" {
  description = "Region of the bucket; the configuration names it."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket."
  type        = string
}

variable "create_bucket" {
  description = "Whether the bucket is made here. An existing one keeps its settings: compare them with main.tf, and add the output bucket_policy to its policy."
  type        = bool
  default     = true
}

variable "prefix" {
  description = "Folder of the repository in the bucket, without slashes at its ends; empty for the whole bucket."
  type        = string
  default     = ""
  validation {
    condition     = var.prefix == "" || can(regex("^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*$", var.prefix))
    error_message = "A prefix consists of lower-case segments joined by slashes, without one at either end."
  }
}

variable "create_kms_key" {
  description = "Whether a key of one's own encrypts the bucket once more. All in it is sealed already; this gives a second switch."
  type        = bool
  default     = false
}

variable "kms_key_arn" {
  description = "ARN of an existing key that encrypts the bucket. Its policy must let the roles use it."
  type        = string
  default     = null
}

variable "object_lock" {
  description = "Retention that every new object gets: mode GOVERNANCE or COMPLIANCE, and days. Null: none, versions protect. Only a new bucket can have it."
  type = object({
    mode = string
    days = number
  })
  default = null
  validation {
    condition     = var.object_lock == null || try(contains(["GOVERNANCE", "COMPLIANCE"], var.object_lock.mode) && var.object_lock.days >= 1, false)
    error_message = "The mode is GOVERNANCE or COMPLIANCE, for at least one day."
  }
}

variable "old_versions_days" {
  description = "How long an object stays after it was deleted: the time in which the state of a day can be copied from old versions, which costs their storage."
  type        = number
  default     = 30
  validation {
    condition     = var.old_versions_days >= 1
    error_message = "S3 keeps old versions for at least one day."
  }
}

variable "federation" {
  description = "Who may take a role by a token of OIDC, without a key: issuer (https), exact subjects, the role (writer, pruner, reader), and the audience if it is not sts.amazonaws.com."
  type = map(object({
    issuer   = string
    subjects = list(string)
    role     = optional(string, "writer")
    audience = optional(string, "sts.amazonaws.com")
  }))
  default = {}
  validation {
    condition     = alltrue([for one in values(var.federation) : contains(["writer", "pruner", "reader"], one.role) && startswith(one.issuer, "https://") && length(one.subjects) > 0])
    error_message = "Each needs an https issuer, at least one subject, and one of the roles writer, pruner and reader."
  }
}

variable "oidc_provider_arns" {
  description = "Providers of OIDC that the account knows already, by issuer: an account has one for each."
  type        = map(string)
  default     = {}
}

variable "token_file" {
  description = "File with the token by which the configuration logs in. Null: as found in the surroundings (the role of the task)."
  type        = string
  default     = null
}

variable "token_from" {
  description = "Who gives that token instead of a file, as the configuration calls it: google-metadata-server, where the job runs at Google. Its audience is the one of federation, sts.amazonaws.com. Null: nobody."
  type        = string
  default     = null
  validation {
    condition     = var.token_from == null || var.token_from == "google-metadata-server"
    error_message = "Tokens that are in no file come from google-metadata-server."
  }
  validation {
    condition     = var.token_from == null || var.token_file == null
    error_message = "The configuration logs in by one token: either token_file or token_from."
  }
}

variable "principals" {
  description = "Who else may take a role, by role (writer, pruner, reader): ARNs of roles or users, of machines and of those who restore. They need the right to assume it on their side, too."
  type        = map(list(string))
  default     = {}
  validation {
    condition     = alltrue([for role in keys(var.principals) : contains(["writer", "pruner", "reader"], role)])
    error_message = "The roles are writer, pruner and reader."
  }
  validation {
    condition     = alltrue([for arn in flatten(values(var.principals)) : can(regex("^arn:[^*?]+$", arn))])
    error_message = "Each is named by its ARN: a pattern would let in whoever comes."
  }
}

variable "pods" {
  description = "Service accounts of EKS clusters that may take a role by Pod Identity, by role. The association itself is the cluster's: aws_eks_pod_identity_association."
  type        = map(list(object({ cluster = string, namespace = string, service_account = string })))
  default     = {}
  validation {
    condition     = alltrue([for role in keys(var.pods) : contains(["writer", "pruner", "reader"], role)])
    error_message = "The roles are writer, pruner and reader."
  }
}

variable "config" {
  description = "By role (writer, pruner): the files of its configuration, as modules/config tells them, for the job."
  type        = map(map(string))
  default     = {}
}

variable "job" {
  description = "The scheduled job: what runs, and when. Null: none here."
  type = object({
    image              = string
    password_secret    = string
    run_schedule       = optional(string, "cron(17 2 * * ? *)")
    lifecycle_schedule = optional(string, "cron(47 4 ? * SUN *)")
    timezone           = optional(string, "Etc/UTC")
    enabled            = optional(bool, true)
    subnets            = list(string)
    security_groups    = list(string)
    assign_public_ip   = optional(bool, false)
    cpu                = optional(number, 1024)
    memory             = optional(number, 2048)
    disk_gib           = optional(number, 21)
    tools_image        = optional(string, "public.ecr.aws/aws-cli/aws-cli:latest")
    volumes = optional(map(object({
      file_system_id  = string
      access_point_id = optional(string)
      path            = string
    })), {})
    log_days = optional(number, 90)
  })
  default = null
}

variable "token_audiences" {
  description = "Tokens that the job fetches for other clouds: file name to audience. Needs outbound identity federation in the account."
  type        = map(string)
  default     = {}
}

variable "tags" {
  description = "Tags of everything that can have some."
  type        = map(string)
  default     = {}
}
